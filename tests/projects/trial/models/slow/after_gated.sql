select * from {{ ref('gated') }}
