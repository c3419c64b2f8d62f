-- Writes an iteration's training job down. ARGV: fence, iteration, work, spec.
local W = P .. 'w:' .. ARGV[3]
local planned = redis.call('HGET', P .. 'trainings', ARGV[2])
if planned then
  if planned == ARGV[3] and redis.call('HGET', W, 'spec') == ARGV[4] then return {'ok'} end
  return {'conflict', 'another one is planned'}
end
if redis.call('EXISTS', W) == 1 then return {'conflict', 'its work is another iteration\'s'} end
redis.call('HSET', P .. 'trainings', ARGV[2], ARGV[3])
redis.call('HSET', W, 'spec', ARGV[4], 'attempt', '0')
return {'ok'}
