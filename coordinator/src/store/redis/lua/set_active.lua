-- Lengthens the time that an iteration's phase was worked on. ARGV: fence, its name, milliseconds.
local I = P .. 'i:' .. ARGV[2]
local found = redis.call('HMGET', I, 'plan', 'active_ms')
if found[1] and tonumber(ARGV[3]) > tonumber(found[2] or '0') then
  redis.call('HSET', I, 'active_ms', ARGV[3])
end
return {'ok'}
