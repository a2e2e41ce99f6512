-- Tells a channel's newest position, and gives a channel without a stream an empty one, so that its epoch is known from now on.
--
-- KEYS[1] the stream
-- ARGV    1 an epoch for a stream that does not exist, 2 ms to keep it
-- Returns the newest id, and the payload that has it, or ''.
local stream = KEYS[1]
local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  redis.call('XADD', stream, ARGV[1] .. '-0', 'd', '')
  redis.call('XDEL', stream, ARGV[1] .. '-0')
  redis.call('PEXPIRE', stream, ARGV[2])
  return {ARGV[1] .. '-0', ''}
end
redis.call('PEXPIRE', stream, ARGV[2])
local last
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
return {last, newest and newest[1] == last and newest[2][2] or ''}
