#!lua flags=no-writes
-- Runs: those in ARGV, or all. KEYS[1]: the list of runs.
local ids = ARGV
if #ids == 0 then ids = redis.call('LRANGE', KEYS[1], 0, -1) end
local runs = {'ok'}
for _, id in ipairs(ids) do
  local run = redis.call('HMGET', 'influence:{' .. id .. '}:meta',
    'name', 'digest', 'experiment', 'status', 'error', 'created_ms')
  if run[1] then
    table.insert(run, 1, id)
    table.insert(runs, run)
  end
end
return runs
