-- Says how a run stands. ARGV: fence, status, error or ''.
redis.call('HSET', P .. 'meta', 'status', ARGV[2], 'error', ARGV[3])
return {'ok'}
