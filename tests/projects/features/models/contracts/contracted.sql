select customer_id::integer as customer_id, name::varchar(50) as name, 1.5::decimal(6, 2) as weight from {{ ref('raw_customers') }}
