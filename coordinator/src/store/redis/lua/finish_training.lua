-- Ends a training job. ARGV: fence, work, attempt, report.
local W = P .. 'w:' .. ARGV[2]
local job = redis.call('HMGET', W, 'spec', 'attempt', 'report')
if not job[1] then return {'no_work'} end
if ARGV[3] ~= job[2] then return {'fenced', ARGV[3], job[2]} end
if job[3] then
  if job[3] == ARGV[4] then return {'ok'} end
  return {'conflict', 'another one of the same attempt is stored'}
end
redis.call('HSET', W, 'report', ARGV[4])
redis.call('HDEL', W, 'error')
return {'ok'}
