-- Appends messages of one channel to its stream and publishes them, in order. One call is one batch; each message gets the next id, <epoch>-<n>.
--
-- KEYS[1] the stream, then one key per idempotency key, in the order of the messages that have one
-- ARGV    1 PUBLISH or SPUBLISH, 2 the channel it publishes on, 3 messages to keep, 4 ms to keep them, 5 the epoch as the caller remembers it, or '',
--         6 an epoch for a stream that does not exist, 7 ms to remember idempotency keys, 8 how messages are given:
--         'plain': payloads; 'full': per message its payload, its own id, and 'k' if it has an idempotency key, or ''
-- Returns one string per message: its id; '=<id>' of another message with the same idempotency key; or '!<error>', behind which nothing was done.
-- It never fails half way: once anything is done, errors of the server are caught and returned.
local stream, publish, channel, keep, epoch = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local call = redis.pcall
local results, keys_used, first = {}, 1, 9

-- Nothing is appended that may not be published: to take it back would leave a hole in the numbers, for newer servers let no stream go back behind what was deleted last.
if not redis.acl_check_cmd(publish, channel, '') then return { '!' .. call(publish, channel, '').err } end

-- Publishes what was appended. Returns an error if that fails all the same, and then it is gone.
local function publish_or_undo(id, payload)
  local told = call(publish, channel, id .. ' ' .. payload)
  if type(told) ~= 'table' then return nil end
  call('XDEL', stream, id)
  return '!' .. told.err
end

-- The common case, before anything else is made ready.
if ARGV[8] == 'plain' and epoch ~= '' then
  local auto = epoch .. '-*'
  for i = 9, #ARGV do
    local id = call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, auto, 'd', ARGV[i])
    if type(id) ~= 'string' then break end
    local failed = publish_or_undo(id, ARGV[i])
    results[i - 8] = failed or id
    first = failed and #ARGV + 1 or i + 1
    if failed then break end
  end
  if first > #ARGV then
    call('PEXPIRE', stream, ARGV[4])
    return results
  end
end

-- Finds out the epoch of the stream, which is new or of another one than was remembered, and appends.
local function append_first(payload)
  local info = call('XINFO', 'STREAM', stream)
  if info.err then
    if not string.find(info.err, 'no such key', 1, true) then return info end
    epoch = ARGV[6]
    return call('XADD', stream, epoch .. '-1', 'd', payload)
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then epoch = string.match(info[i + 1], '^%d+') end
  end
  return call('XADD', stream, epoch .. '-*', 'd', payload)
end

local function send(payload)
  local id = epoch ~= '' and call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload)
  if type(id) ~= 'string' then
    if id and not string.find(id.err, 'equal or smaller', 1, true) then return '!' .. id.err end
    id = append_first(payload)
    if type(id) ~= 'string' then return '!' .. id.err end
  end
  return publish_or_undo(id, payload) or id
end

local function send_once(payload, name, key)
  local known = call('GET', key)
  if type(known) == 'table' then return '!' .. known.err end
  if known then
    local id, first = string.match(known, '^(%S+) (.*)$')
    return first == name and id or '=' .. id
  end
  if not redis.acl_check_cmd('SET', key, '') then return "!NOPERM this user has no permissions to run the 'set' command" end
  local id = send(payload)
  if string.sub(id, 1, 1) ~= '!' then call('SET', key, id .. ' ' .. name, 'PX', ARGV[7]) end
  return id
end

local function take(payload, name, how)
  if how ~= 'k' then return send(payload) end
  keys_used = keys_used + 1
  return send_once(payload, name, KEYS[keys_used])
end

local step = ARGV[8] == 'plain' and 1 or 3
for i = first, #ARGV, step do
  local result = step == 1 and send(ARGV[i]) or take(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  results[#results + 1] = result
  if string.sub(result, 1, 1) == '!' then break end
end
call('PEXPIRE', stream, ARGV[4])
return results
