#!lua flags=no-writes
-- The planned iterations. KEYS[1]: what the run's keys begin with.
local P = KEYS[1]
local answer = {'ok'}
for _, name in ipairs(redis.call('LRANGE', P .. 'iterations', 0, -1)) do
  local found = redis.call('HMGET', P .. 'i:' .. name, 'plan', 'selection', 'notes', 'active_ms')
  table.insert(found, 1, name)
  table.insert(answer, found)
end
return answer
