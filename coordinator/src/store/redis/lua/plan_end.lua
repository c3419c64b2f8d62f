-- Makes a plan exist whose episodes are all written down.
-- ARGV: fence, the iteration's name, the plan's digest, how many episodes it has.
local name, digest = ARGV[2], ARGV[3]
local I = P .. 'i:' .. name
local planned = redis.call('HMGET', I, 'plan', 'episodes')
if planned[1] then return {'planned', planned[1], planned[2]} end
if redis.call('LLEN', P .. 'p:' .. name .. '@' .. digest) ~= tonumber(ARGV[4]) then return {'gap'} end
redis.call('HSET', I, 'plan', digest, 'episodes', ARGV[4])
redis.call('RPUSH', P .. 'iterations', name)
return {'ok'}
