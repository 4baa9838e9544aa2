{{ config(materialized='ephemeral') }}
select customer_id, sum(amount) as total from {{ ref('eph_paid') }} group by customer_id
