-- Looks in a channel's stream for messages of an earlier attempt whose answer was lost, newest first, until it knows of each or has seen all that is kept.
--
-- KEYS[1] the stream
-- ARGV    1 a position behind which they would stand, or '', then the messages' own ids
-- Returns one string per message: its id in the stream, or ''; and behind them 1 if they would all be there still, as far as can be told, or 0.
local stream, after = KEYS[1], ARGV[1]
local found, missing, upper = {}, 0, '+'
for i = 2, #ARGV do
  found[ARGV[i]] = ''
  missing = missing + 1
end
for _ = 1, 256 do
  local page = redis.call('XREVRANGE', stream, upper, '-', 'COUNT', 256)
  for i = 1, #page do
    local name = string.match(page[i][2][2], '^........ {"id":"([^"\\]*)"')
    if name and found[name] == '' then
      found[name] = page[i][1]
      missing = missing - 1
    end
  end
  if missing == 0 or #page < 256 then break end
  upper = '(' .. page[#page][1]
end
local whole = 1
if after ~= '' then
  -- What follows that position must be its successor, or the beginning of another stream.
  local epoch, n = string.match(after, '^(%d+)-(%d+)$')
  local next = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', 1)[1]
  if next then
    local its_epoch, its_n = string.match(next[1], '^(%d+)-(%d+)$')
    if its_epoch == epoch and tonumber(its_n) ~= tonumber(n) + 1 then whole = 0 end
  end
end
local results = {}
for i = 2, #ARGV do results[i - 1] = found[ARGV[i]] end
results[#results + 1] = whole
return results
