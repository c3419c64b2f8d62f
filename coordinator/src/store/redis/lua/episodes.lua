#!lua flags=no-writes
-- Some episodes of a plan. KEYS[1]: what the run's keys begin with.
-- ARGV: the iteration's name, the plan's digest, the selection's digest or '', first, last.
local P = KEYS[1]
local verdicts = ARGV[3] ~= '' and P .. 'v:' .. ARGV[1] .. '@' .. ARGV[3]
local answer = {'ok'}
for _, id in ipairs(redis.call('LRANGE', P .. 'p:' .. ARGV[1] .. '@' .. ARGV[2], ARGV[4], ARGV[5])) do
  local e = redis.call('HMGET', P .. 'e:' .. id, 'place', 'status', 'error', 'attempt', 'rival')
  answer[#answer + 1] = {
    id, e[1], e[2], e[3], e[5] or e[4],
    redis.call('LLEN', P .. 't:' .. id),
    verdicts and redis.call('HGET', verdicts, id),
  }
end
return answer
