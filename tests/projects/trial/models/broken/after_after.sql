select * from {{ ref('after_broken_column') }}
