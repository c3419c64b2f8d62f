-- Begins every script that writes. KEYS[1]: what the run's keys begin with. ARGV[1]: the caller's
-- fence, which is the run's only as long as nobody else has taken the lead since.
local P = KEYS[1]
do
  local led = redis.call('HMGET', P .. 'meta', 'fence', 'leader')
  if led[1] ~= ARGV[1] then
    local there = redis.call('EXISTS', P .. 'lead') == 1
    return {'deposed', there and led[2] or 'nobody'}
  end
end
