select o.name, n.full_name from {{ ref('dim_customer', v=1) }} o join {{ ref('dim_customer') }} n on n.customer_id = o.customer_id
