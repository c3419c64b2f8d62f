-- Starts an attempt of a training job, if ARGV[2] is one. ARGV: fence, work, attempt, beside or ''.
do
  local W = P .. 'w:' .. ARGV[2]
  local job = redis.call('HMGET', W, 'spec', 'attempt', 'report')
  if job[1] then
    if job[3] then return {'finished'} end
    if tonumber(ARGV[3]) < tonumber(job[2]) then return {'fenced', ARGV[3], job[2]} end
    redis.call('HSET', W, 'attempt', ARGV[3])
    redis.call('HDEL', W, 'error')
    return {'ok', 'training', job[1]}
  end
end
