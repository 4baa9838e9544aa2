{{ config(alias='package_customers') }}
select 1 as customer_id, 'from the package' as origin
