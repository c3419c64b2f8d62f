-- Opens the failed ones among some episodes of a plan. ARGV: fence, the iteration's name, first, last.
local found = redis.call('HMGET', P .. 'i:' .. ARGV[2], 'plan', 'selection')
if not found[1] then return {'unplanned'} end
if found[2] then return {'judged'} end
local ids = redis.call('LRANGE', P .. 'p:' .. ARGV[2] .. '@' .. found[1], ARGV[3], ARGV[4])
for _, id in ipairs(ids) do
  if redis.call('HGET', P .. 'e:' .. id, 'status') == 'failed' then
    redis.call('HDEL', P .. 'e:' .. id, 'status', 'error')
  end
end
return {'ok', #ids}
