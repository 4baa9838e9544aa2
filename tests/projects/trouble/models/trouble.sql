{#- What the warehouse does to it is up to the test: SQL to run before it, and what it selects. -#}
{{ config(pre_hook=var('before', [])) }}
select {{ var('body', '1 as id') }}
