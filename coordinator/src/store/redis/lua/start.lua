-- Starts an attempt of an episode. ARGV: fence, episode, attempt, beside or ''.
local mine, beside = ARGV[3], ARGV[4]
local function go_on_from(list)
  return {'ok', 'episode', redis.call('GET', P .. 'spec:' .. ID), redis.call('LRANGE', list, 0, -1)}
end
if status == 'finished' then return {'finished'} end
if tonumber(mine) < tonumber(highest) then return {'fenced', mine, highest} end
if beside == '' then
  if rival and (rival == mine or redis.call('LLEN', R) > redis.call('LLEN', T)) then
    promote_rival()
  else
    drop_rival()
  end
  redis.call('HSET', E, 'attempt', mine)
  return go_on_from(T)
end
local other = journal(beside)
if not other then return {'fenced', beside, highest} end
if rival == mine and other == T then return go_on_from(R) end
if mine == highest then return {'conflict', 'it was started before'} end
if other == T then drop_rival() else promote_rival() end
if redis.call('EXISTS', T) == 1 then redis.call('COPY', T, R) end
redis.call('HSET', E, 'attempt', attempt, 'rival', mine)
return go_on_from(R)
