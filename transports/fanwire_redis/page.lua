-- Reads a page of a channel's stream together with its newest id, at one instant.
--
-- KEYS[1] the stream
-- ARGV    1 'from' or 'last', 2 the id to start at, inclusive, or how many of the newest entries to start before, 3 entries at most, 4 bytes after which to end
-- Returns the newest id or '', the payload that has it or '', and the entries, oldest first.
local stream, limit, most = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if string.find(info.err, 'no such key', 1, true) then return {'', '', {}} end
  return info
end
local last, newest
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
  if info[i] == 'last-entry' then newest = info[i + 1] end
end
local payload = newest and newest[1] == last and newest[2][2] or ''
local start = ARGV[2]
if ARGV[1] == 'last' then
  local left, upper = tonumber(ARGV[2]), '+'
  start = '-'
  while left > 0 do
    local found = redis.call('XREVRANGE', stream, upper, '-', 'COUNT', math.min(left, 64))
    if #found == 0 then break end
    start, left = found[#found][1], left - #found
    upper = '(' .. start
  end
end
if newest and start ~= '-' then
  local epoch = string.match(start, '^(%d+)-')
  -- In an epoch that is not this stream's, and behind all of it.
  if epoch .. '-' ~= string.sub(last, 1, #epoch + 1) and #redis.call('XRANGE', stream, start, '+', 'COUNT', 1) == 0 then start = '-' end
end
local entries, size = {}, 0
while #entries < limit and size < most do
  local found = redis.call('XRANGE', stream, start, '+', 'COUNT', math.min(limit - #entries, 32))
  for i = 1, #found do
    entries[#entries + 1] = found[i]
    size = size + #found[i][2][2]
  end
  if #found == 0 then break end
  start = '(' .. found[#found][1]
end
return {last, payload, entries}
