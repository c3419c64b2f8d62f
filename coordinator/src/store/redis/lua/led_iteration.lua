-- How an iteration's phase stands, for its leader. ARGV: fence, its name.
local found = redis.call('HMGET', P .. 'i:' .. ARGV[2], 'plan', 'episodes', 'selection')
return {'ok', found[1], found[2], found[3]}
