-- Takes a mark back, whoever leads. KEYS[1]: what the run's keys begin with. ARGV: its name.
redis.call('HDEL', KEYS[1] .. 'marks', ARGV[1])
return {'ok'}
