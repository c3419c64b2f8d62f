-- Ends an episode. ARGV: fence, episode, attempt, turns.
local list = journal(ARGV[3])
if not list then return {'fenced', ARGV[3], highest} end
if status == 'failed' then return {'given_up'} end
local stored = redis.call('LLEN', list)
if tonumber(ARGV[4]) ~= stored then
  return {'conflict', 'it says ' .. ARGV[4] .. ' turns, the journal holds ' .. stored}
end
if status == 'finished' then return {'ok'} end
if list == T then drop_rival() else promote_rival() end
redis.call('HSET', E, 'status', 'finished', 'attempt', attempt)
return {'ok'}
