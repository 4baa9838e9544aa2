-- Hand out whatever may start and was not handed out (a worker died between finish and publish).
if run_field('state') ~= 'active' and run_field('state') ~= 'stopping' then return {} end
close_when_done()
return dispatch()
