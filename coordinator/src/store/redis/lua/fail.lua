-- Gives an episode up. ARGV: fence, episode, attempt, error.
if status == 'finished' then return {'finished'} end
if not journal(ARGV[3]) then return {'fenced', ARGV[3], highest} end
redis.call('HSET', E, 'status', 'failed', 'error', ARGV[4])
return {'ok'}
