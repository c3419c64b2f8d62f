-- Writes down what a person says, whoever leads. KEYS[1]: what the run's keys begin with.
-- ARGV: the episode's id, the mark's name, the mark.
local P, id = KEYS[1], ARGV[1]
local plan = redis.call('HGET', P .. 'e:' .. id, 'plan')
if not plan then return {'no_work'} end
local name, digest = string.match(plan, '^(.-)@(.*)$')
if redis.call('HGET', P .. 'i:' .. name, 'plan') ~= digest then return {'no_work'} end
redis.call('HSET', P .. 'marks', ARGV[2], ARGV[3])
return {'ok'}
