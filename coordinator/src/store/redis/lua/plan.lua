-- Writes some of a plan's episodes down; they exist once `plan_end` has marked the whole.
-- ARGV: fence, the iteration's name, the plan's digest, the first one's position, and for each
-- episode its id, its place and its spec.
local name, digest = ARGV[2], ARGV[3]
local planned = redis.call('HMGET', P .. 'i:' .. name, 'plan', 'episodes')
if planned[1] then return {'planned', planned[1], planned[2]} end
local list, mine = P .. 'p:' .. name .. '@' .. digest, name .. '@' .. digest
local there, first = redis.call('LLEN', list), tonumber(ARGV[4])
if there < first then return {'gap'} end
-- A repeat skips what is there.
local from = 5 + 3 * (there - first)
for i = from, #ARGV, 3 do
  local other = redis.call('HGET', P .. 'e:' .. ARGV[i], 'plan')
  if other and other ~= mine then
    local at, by = string.match(other, '^(.-)@(.*)$')
    if redis.call('HGET', P .. 'i:' .. at, 'plan') == by then return {'taken', ARGV[i]} end
  end
end
for i = from, #ARGV, 3 do
  redis.call('HSET', P .. 'e:' .. ARGV[i], 'plan', mine, 'place', ARGV[i + 1])
  redis.call('SET', P .. 'spec:' .. ARGV[i], ARGV[i + 2])
  redis.call('RPUSH', list, ARGV[i])
end
return {'ok'}
