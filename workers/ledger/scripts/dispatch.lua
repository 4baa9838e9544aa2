-- Hand out whatever may start and was not handed out.
if is_live(run_field('state')) then close_when_done() end
return dispatch()
