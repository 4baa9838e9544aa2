select * from {{ ref('broken_column') }}
