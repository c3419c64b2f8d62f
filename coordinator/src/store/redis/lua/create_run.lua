-- Writes a new run down.
-- KEYS: what the run's keys begin with; the schema's key; the list of runs.
-- ARGV: the schema, a token of this call, the id, and the fields of the run's hash with their values.
local schema = redis.call('GET', KEYS[2])
if schema and tonumber(schema) > tonumber(ARGV[1]) then return {'newer', schema} end
local creator = redis.call('HGET', KEYS[1] .. 'meta', 'creator')
if creator == ARGV[2] then return {'ok'} end
if creator then return {'exists'} end
if not schema then redis.call('SET', KEYS[2], ARGV[1]) end
redis.call('HSET', KEYS[1] .. 'meta', 'creator', ARGV[2], unpack(ARGV, 4))
redis.call('RPUSH', KEYS[3], ARGV[3])
return {'ok'}
