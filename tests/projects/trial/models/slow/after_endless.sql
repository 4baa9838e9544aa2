select * from {{ ref('endless') }}
