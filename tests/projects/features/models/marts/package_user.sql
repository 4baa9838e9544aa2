select f.factor, p.origin, c.name
from {{ ref('helpers', 'helper_factors') }} f
cross join {{ ref('helpers', 'customers') }} p
cross join {{ ref('features', 'customers') }} c
