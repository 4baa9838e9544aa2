select * from {{ ref('roster') }} where salary > 80000
