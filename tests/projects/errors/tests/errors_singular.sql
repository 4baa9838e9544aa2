select * from {{ ref('roster') }} where salry > 80000
