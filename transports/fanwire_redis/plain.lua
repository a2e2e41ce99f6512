-- Publishes messages, those of each channel in order, and keeps nothing.
--
-- KEYS    in a cluster the channel, of which there is one then
-- ARGV    1 PUBLISH or SPUBLISH, then per channel its name, how many messages it has, and these
-- Returns per channel how many were published, and the error that stopped it, or ''.
local publish, results, i = ARGV[1], {}, 2
while i < #ARGV do
  local channel, last, done, failure = ARGV[i], i + 1 + ARGV[i + 1], 0, ''
  for j = i + 2, last do
    local published = redis.pcall(publish, channel, ARGV[j])
    if type(published) == 'table' then
      failure = published.err
      break
    end
    done = done + 1
  end
  results[#results + 1], results[#results + 2] = done, failure
  i = last + 1
end
return results
