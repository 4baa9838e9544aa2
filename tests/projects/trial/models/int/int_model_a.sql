select {{ var('simulation_year') | int }} as simulation_year, {{ var('cola_rate') }} as cola_rate
