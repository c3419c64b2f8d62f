-- Writes some of a selection's verdicts down; they count once `judge` has marked the whole.
-- ARGV: fence, the iteration's name, the selection's digest, and ids with their verdicts.
if redis.call('HEXISTS', P .. 'i:' .. ARGV[2], 'selection') == 1 then return {'ok'} end
redis.call('HSET', P .. 'v:' .. ARGV[2] .. '@' .. ARGV[3], unpack(ARGV, 4))
return {'ok'}
