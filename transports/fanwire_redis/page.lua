-- Reads a page of a channel's stream together with its newest id, at one instant.
--
-- KEYS[1] the stream
-- ARGV    1 'from' or 'last', 2 the id to start at, inclusive, or how many of the newest entries to start before, 3 entries at most
-- Returns the newest id or '', the payload that has it or '', and the entries, oldest first.
local stream = KEYS[1]
local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if string.find(info.err, 'no such key', 1, true) then return {'', '', {}} end
  return info
end
local last
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local payload = newest and newest[1] == last and newest[2][2] or ''
local start = ARGV[2]
if ARGV[1] == 'last' then
  local found = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', ARGV[2])
  start = #found > 0 and found[#found][1] or '-'
end
local entries = redis.call('XRANGE', stream, start, '+', 'COUNT', ARGV[3])
if #entries == 0 and newest and start ~= '-' then
  -- Nothing from there on: behind the newest message, or in an epoch that is not this stream's.
  local epoch, seq = string.match(start, '^(%d+)-(%d+)$')
  if epoch .. '-' ~= string.sub(last, 1, #epoch + 1) then entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', ARGV[3]) end
end
return {last, payload, entries}
