#!lua flags=no-writes
-- The training jobs. KEYS[1]: what the run's keys begin with.
local planned = redis.call('HGETALL', KEYS[1] .. 'trainings')
local answer = {'ok'}
for i = 1, #planned, 2 do
  local job = redis.call('HMGET', KEYS[1] .. 'w:' .. planned[i + 1], 'attempt', 'error', 'spec', 'report')
  table.insert(job, 1, planned[i])
  table.insert(job, 2, planned[i + 1])
  table.insert(answer, job)
end
return answer
