-- Gives a training job up, if ARGV[2] is one. ARGV: fence, work, attempt, error.
do
  local W = P .. 'w:' .. ARGV[2]
  local job = redis.call('HMGET', W, 'spec', 'attempt', 'report')
  if job[1] then
    if job[3] then return {'finished'} end
    if ARGV[3] ~= job[2] then return {'fenced', ARGV[3], job[2]} end
    redis.call('HSET', W, 'error', ARGV[4])
    return {'ok'}
  end
end
