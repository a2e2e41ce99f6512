-- Appends messages of one channel to its stream and publishes them, in order. One call is one batch; each message gets the next id, <epoch>-<n>.
--
-- KEYS[1] the stream, then one key per idempotency key, in the order of the messages that have one
-- ARGV    1 PUBLISH or SPUBLISH, 2 the channel it publishes on, 3 messages to keep, 4 ms to keep them, 5 the epoch as the caller remembers it, or '',
--         6 an epoch for a stream that does not exist, 7 ms to remember idempotency keys, 8 how messages are given:
--         'plain': payloads; 'full': per message its payload, its own id, and 'key' if it has an idempotency key, 'retry' if it may be there already, or ''
-- Returns one string per message: its id; '=<id>' of another message with the same idempotency key; or '!<error>', behind which nothing was done.
local stream, publish, channel, keep, epoch = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local results = {}
local keys_used = 1

local function failed(reply)
  return type(reply) == 'table' and reply.err
end

local function append(payload)
  if epoch ~= '' then
    local id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload)
    if type(id) == 'string' then return id end
  end
  -- There is no stream, or one of a newer epoch.
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if failed(info) then
    epoch = ARGV[6]
    return redis.pcall('XADD', stream, 'MAXLEN', '~', keep, epoch .. '-1', 'd', payload)
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then epoch = string.match(info[i + 1], '^%d+') end
  end
  return redis.pcall('XADD', stream, 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload)
end

local function already_there(name)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 256)
  for i = 1, #newest do
    if string.find(newest[i][2][2], '"id":"' .. name .. '"', 1, true) == 11 then return newest[i][1] end
  end
end

local function send(payload)
  local id = append(payload)
  if failed(id) then return '!' .. id.err end
  local published = redis.pcall(publish, channel, id .. ' ' .. payload)
  if failed(published) then return '!' .. published.err end
  return id
end

local function send_once(payload, name, key)
  local known = redis.call('GET', key)
  if known then
    local id, first = string.match(known, '^(%S+) (.*)$')
    return first == name and id or '=' .. id
  end
  local id = send(payload)
  if string.sub(id, 1, 1) ~= '!' then redis.call('SET', key, id .. ' ' .. name, 'PX', ARGV[7]) end
  return id
end

local i = 9
while i <= #ARGV do
  local payload, result = ARGV[i], nil
  if ARGV[8] == 'plain' then
    result, i = send(payload), i + 1
  else
    local name, how = ARGV[i + 1], ARGV[i + 2]
    if how == 'key' then
      keys_used = keys_used + 1
      result = send_once(payload, name, KEYS[keys_used])
    else
      result = how == 'retry' and already_there(name) or send(payload)
    end
    i = i + 3
  end
  results[#results + 1] = result
  if string.sub(result, 1, 1) == '!' then break end
end
redis.call('PEXPIRE', stream, ARGV[4])
return results
