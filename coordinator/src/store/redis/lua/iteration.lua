#!lua flags=no-writes
-- How an iteration's phase stands. KEYS[1]: what the run's keys begin with. ARGV[1]: its name.
local found = redis.call('HMGET', KEYS[1] .. 'i:' .. ARGV[1], 'plan', 'episodes', 'selection')
return {'ok', found[1], found[2], found[3]}
