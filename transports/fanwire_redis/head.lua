-- Tells a channel's newest position, and gives a channel without a stream an empty one, so that its epoch is known from now on.
--
-- KEYS[1] the stream
-- ARGV    1 an epoch for a stream that does not exist, 2 ms to keep it
-- Returns the newest id, and the payload that has it, or ''; twice '' where there is no stream, and this user or a full memory does not allow to make one.
local stream = KEYS[1]
local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return info end
  local made = redis.pcall('XADD', stream, 'MAXLEN', 0, ARGV[1] .. '-0', 'd', '')  -- kept is the id alone
  if type(made) == 'table' then
    for _, sign in ipairs({'OOM', 'NOPERM', "The user executing the script can't", 'ACL failure in script'}) do
      if string.find(made.err, sign, 1, true) then return {'', ''} end
    end
    return made
  end
  redis.pcall('PEXPIRE', stream, ARGV[2])
  return {made, ''}
end
redis.pcall('PEXPIRE', stream, ARGV[2])
local last, newest
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
  if info[i] == 'last-entry' then newest = info[i + 1] end
end
return {last, newest and newest[1] == last and newest[2][2] or ''}
