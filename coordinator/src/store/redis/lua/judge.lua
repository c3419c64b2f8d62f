-- Makes a selection count whose verdicts are all written down.
-- ARGV: fence, the iteration's name, the selection's digest, how many verdicts it has, the notes.
local I = P .. 'i:' .. ARGV[2]
local stored = redis.call('HGET', I, 'selection')
if stored then return {'judged', stored} end
if redis.call('HLEN', P .. 'v:' .. ARGV[2] .. '@' .. ARGV[3]) ~= tonumber(ARGV[4]) then return {'gap'} end
redis.call('HSET', I, 'selection', ARGV[3], 'notes', ARGV[5])
return {'ok'}
