select customer_id, name as full_name from {{ ref('contracted') }}
