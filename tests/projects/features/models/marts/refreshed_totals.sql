{{ config(
    enabled=(target.type == 'postgres'), materialized='materialized_view', on_configuration_change='apply',
    indexes=[{'columns': ['customer_id']}], grants={'select': ['parity_reader']}
) }}
select customer_id, total from {{ ref('customer_totals') }}
