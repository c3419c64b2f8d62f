-- Takes the lead of a run, or keeps it.
-- KEYS: what the run's keys begin with; the schema's key.
-- ARGV: the schema that the caller knows, its token, its name, milliseconds, its fence or ''.
local P = KEYS[1]
local schema = redis.call('GET', KEYS[2])
if schema and tonumber(schema) > tonumber(ARGV[1]) then return {'newer', schema} end
if redis.call('EXISTS', P .. 'meta') == 0 then return {'no_run'} end
local token, known = ARGV[2], ARGV[5]
local holder = redis.call('GET', P .. 'lead')
local meta = redis.call('HMGET', P .. 'meta', 'fence', 'leader')
local fence, leader = meta[1], meta[2]
-- A caller that led once must hear of it if another led since, even if nobody does now.
if (holder and holder ~= token) or (known ~= '' and fence ~= known) then
  return {'led', leader or 'another process'}
end
if holder and leader == ARGV[3] then
  -- Unlike what follows, this needs no memory: a full server keeps its leader.
  redis.call('PEXPIRE', P .. 'lead', ARGV[4])
  return {'ok', fence}
end
if not holder and known == '' then
  fence = redis.call('HINCRBY', P .. 'meta', 'epoch', 1) .. ':' .. token
end
redis.call('HSET', P .. 'meta', 'fence', fence, 'leader', ARGV[3])
redis.call('SET', P .. 'lead', token, 'PX', ARGV[4])
return {'ok', fence}
