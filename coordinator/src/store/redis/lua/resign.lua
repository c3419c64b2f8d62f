-- Gives the lead of a run up, if it is the caller's, and fences off what of it is still under way.
-- KEYS[1]: what the run's keys begin with. ARGV: the caller's token, its fence or ''.
local P = KEYS[1]
local held = redis.call('GET', P .. 'lead') == ARGV[1]
if held or (ARGV[2] ~= '' and redis.call('HGET', P .. 'meta', 'fence') == ARGV[2]) then
  redis.call('HDEL', P .. 'meta', 'fence')
end
if held then redis.call('DEL', P .. 'lead') end
return {'ok'}
