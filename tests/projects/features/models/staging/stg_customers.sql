select customer_id, name, region, changed_at
from {{ ref('raw_customers') }}
where region = '{{ var("region") }}' or '{{ var("region") }}' = 'all'
