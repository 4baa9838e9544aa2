select b.person, b.salary * (1 + a.cola_rate) as salary, a.simulation_year
from {{ ref('int_model_b') }} as b
cross join {{ ref('int_model_a') }} as a
