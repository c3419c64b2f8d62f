#!lua flags=no-writes
-- An episode's spec, its journal, or what judges said about it. KEYS[1]: what the run's keys begin with. ARGV: its id, which.
local P, id = KEYS[1], ARGV[1]
local plan = redis.call('HGET', P .. 'e:' .. id, 'plan')
if not plan then return {'no_work'} end
local name, digest = string.match(plan, '^(.-)@(.*)$')
if redis.call('HGET', P .. 'i:' .. name, 'plan') ~= digest then return {'no_work'} end
if ARGV[2] == 'spec' then return {'ok', redis.call('GET', P .. 'spec:' .. id)} end
if ARGV[2] == 'metrics' then return {'ok', redis.call('HVALS', P .. 'm:' .. id)} end
return {'ok', redis.call('LRANGE', P .. 't:' .. id, 0, -1)}
