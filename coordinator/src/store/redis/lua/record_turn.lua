-- Journals a turn. ARGV: fence, episode, attempt, the turn's index, the turn.
local list = journal(ARGV[3])
if not list then return {'fenced', ARGV[3], highest} end
local index, turns = tonumber(ARGV[4]), redis.call('LLEN', list)
if index < turns then
  if redis.call('LINDEX', list, index) == ARGV[5] then return {'ok'} end
  return {'conflict', 'another turn is stored there'}
end
if index > turns then
  return {'conflict', 'the journal holds ' .. turns .. ' turns, so the next is turn ' .. turns}
end
if status == 'finished' then return {'conflict', 'the episode is finished with ' .. turns .. ' turns'} end
if status == 'failed' then return {'given_up'} end
redis.call('RPUSH', list, ARGV[5])
return {'ok'}
