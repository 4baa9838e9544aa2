{{ config(alias='customers', materialized='table') }}
-- depends_on: {{ ref('raw_customers') }}
select customer_id, name from {{ source('shop', 'customers_source') }}
